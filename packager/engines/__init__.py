"""One file per engine that can run a model, all behind `engine.Engine`."""
