"""IFEval's instructions, each with the check that says whether a response followed it (arXiv 2311.07911)."""
