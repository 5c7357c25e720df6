"""The one exception for what a user can put right: a sentence, a non-zero exit, no traceback."""


class Refusal(Exception):
    """Says what was wanted, what was got and what to do. Anything else that escapes a node is a defect."""
