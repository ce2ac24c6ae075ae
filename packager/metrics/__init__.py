"""What a prediction scores against its label, and how sure the difference of two sides is. Nothing here runs a model."""
