"""The 50 MetaWorld tasks: what one says to the robot for each, and the difficulty tier (paper, Tab. 10)."""

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "put the ring on the peg",
    "basketball-v3": "dunk the ball into the basket",
    "bin-picking-v3": "move the puck to the other bin",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "press the button behind the wall from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "press the button behind the wall",
    "coffee-button-v3": "press the coffee machine's button",
    "coffee-pull-v3": "pull the mug from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "take the ring off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail",
    "hand-insert-v3": "push the puck into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg from the side",
    "peg-unplug-side-v3": "unplug the peg from the side",
    "pick-out-of-hole-v3": "lift the puck out of the hole",
    "pick-place-v3": "carry the puck to the goal",
    "pick-place-wall-v3": "carry the puck over the wall to the goal",
    "plate-slide-back-side-v3": "slide the plate out of the net sideways",
    "plate-slide-back-v3": "slide the plate back out of the net",
    "plate-slide-side-v3": "slide the plate into the net sideways",
    "plate-slide-v3": "slide the plate into the net",
    "push-back-v3": "pull the puck back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "reach the red goal",
    "reach-wall-v3": "reach the red goal behind the wall",
    "shelf-place-v3": "put the puck on the shelf",
    "soccer-v3": "kick the ball into the goal",
    "stick-pull-v3": "pull the box with the stick",
    "stick-push-v3": "push the box with the stick",
    "sweep-into-v3": "sweep the puck into the hole",
    "sweep-v3": "sweep the puck off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}

TASKS: tuple[str, ...] = tuple(INSTRUCTIONS)

_MEDIUM = (
    "basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep sweep-into"
)
_HARD = "assembly hand-insert pick-out-of-hole pick-place push push-back"
_VERY_HARD = "shelf-place disassemble stick-pull stick-push pick-place-wall"


def tier(task: str) -> str:
    """task -> "easy", "medium", "hard" or "very_hard". Raises ValueError for an unknown task."""
    check_task(task)
    name = task.removesuffix("-v3")
    for label, names in (("medium", _MEDIUM), ("hard", _HARD), ("very_hard", _VERY_HARD)):
        if name in names.split():
            return label
    return "easy"


def check_task(task: str) -> None:
    """Raises ValueError, naming the tasks nearest in spelling, when MetaWorld has no such task."""
    if task not in INSTRUCTIONS:
        import difflib

        near = difflib.get_close_matches(task, TASKS, n=3, cutoff=0.4) or list(TASKS[:3])
        raise ValueError(
            f"task: wanted one of the {len(TASKS)} MetaWorld tasks (such as {', '.join(near)}), got {task!r}"
        )
