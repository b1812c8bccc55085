"""The conformance kit: scripted peers that test any coordinator or agent against docs/protocol.md.

::

    case.py              one rule of the document and the coroutine that tests it
    peer.py              one connection to the implementation under test
    agent_peer.py        the kit as an agent        → of_coordinator/  cases for coordinators
    coordinator_peer.py  the kit as a coordinator   → of_agent/        cases for agents
    traffic.py           rules about everything that was received in a run
    runner.py, report.py

It shares with the product only the encoding (`protocol`): no state machine under test is used to
judge another one.
"""
