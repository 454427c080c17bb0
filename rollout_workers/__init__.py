"""The environment: frozen dLLMs, tasks, graders and the decode engine that turns prompts into trajectories."""
