"""Original LLaVA v1.5 checkpoints, converted once into the layout that engines serve."""
