"""Answers from documents: retrieve, choose the evidence, write, and hold every sentence against what was retrieved."""
