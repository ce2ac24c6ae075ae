"""What is wrong with a model that is already there: one file for each organ, `diagnosis` examines them in order."""
