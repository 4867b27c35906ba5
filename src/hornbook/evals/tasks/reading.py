from hornbook.evals.registry import Kinds

TASKS: Kinds = {}
