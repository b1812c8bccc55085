"""An error for the operator: what is wrong, and what to do about it."""


class AdvisedError(Exception):
    """An error whose text is one message for the operator: `problem; advice`.

    Attributes:
        problem: what is wrong, and where: the file, variable, option or address.
        advice: what to do about it; "" if that is clear from the problem.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem}; {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice
