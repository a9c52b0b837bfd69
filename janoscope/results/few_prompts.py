"""How many prompts an interval needs before it is shown without a warning."""

# The standard deviation of n values is itself known within 1 / sqrt(2 (n - 1)): 27 % at 8, 50 % at 3. Below 8 an interval says
# more about which prompts were drawn than about the method.
LEAST_PROMPTS = 8


def few_prompts_words(prompts: int, kind: str = "prompts") -> str | None:
    """The warning where too few prompts stand behind an interval; None from LEAST_PROMPTS on, and where there is no prompt.

    Args:
        prompts: how many. kind: what they are called, such as `held-out prompts`.

    Example:
        >>> few_prompts_words(3, "held-out prompts")
        'Too few prompts: 3 held-out prompts stand behind these intervals; take 8 or more before you rely on them.'
    """
    if not 0 < prompts < LEAST_PROMPTS:
        return None
    counted, verb = (kind, "stand") if prompts > 1 else (kind.removesuffix("s"), "stands")
    advice = f"take {LEAST_PROMPTS} or more before you rely on them"
    return f"Too few prompts: {prompts} {counted} {verb} behind these intervals; {advice}."
