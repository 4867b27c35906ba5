"""Floor 5: whole trainings. A recipe is a typed configuration and a ``run`` that wires what the floors below make."""
