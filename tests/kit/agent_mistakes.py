"""Commands that do not reach the agent that the operator means, and what the operator reads."""

from typing import NamedTuple


class AgentMistake(NamedTuple):
    """One command.

    Attributes:
        command: the command; it exits with 1.
        agents: the fingerprints of the running agents, none of them that of the operator's key.
        message: a part of the text that says what is wrong.
        remedy: a part of the text that says what to do.
    """

    command: tuple[str, ...]
    agents: tuple[str, ...]
    message: str
    remedy: str


_NONE = ("no agent responds on 127.0.0.1:", "is `provider-agent run` running?")
_SEVERAL = ("several agents respond: one on 127.0.0.1:", "choose one by its address")
_NOT_OURS = ("no agent runs with the key", "run the command as the user of the agent")

AGENT_MISTAKES = (
    AgentMistake(("status",), (), *_NONE),
    AgentMistake(("status", "--watch"), (), *_NONE),
    AgentMistake(("health",), (), *_NONE),
    AgentMistake(("pause",), (), *_NONE),
    AgentMistake(("resume",), (), *_NONE),
    AgentMistake(("status",), ("one", "two"), *_SEVERAL),
    AgentMistake(("status", "--json"), ("one", "two"), *_SEVERAL),
    AgentMistake(("health", "--ready"), ("one", "two"), *_SEVERAL),
    AgentMistake(("pause",), ("one",), *_NOT_OURS),
    AgentMistake(("resume",), ("one", "two"), *_NOT_OURS),
)
