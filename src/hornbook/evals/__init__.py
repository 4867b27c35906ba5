"""Evaluation: what a model is asked, how its answers are judged, and how sure the score is."""
