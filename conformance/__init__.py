"""The conformance kit: scripted peers that test any coordinator or agent against docs/protocol.md.

::

    case.py              one rule of the document and the coroutine that tests it
    peer.py              one connection to the implementation under test
    agent_peer.py        the kit as an agent        → of_coordinator/  cases for coordinators
    coordinator_peer.py  the kit as a coordinator   → of_agent/        cases for agents
    of_…/traffic.py      rules about all frames of a run, checked after the other cases
    …_under_test.py      what the cases use: connections, jobs and requests of clients
    …_run.py, runner.py  run the cases
    report.py            renders the results
    failed_connection.py says why a connection could not be opened

Of `protocol`, the kit uses only frames, encoding, signatures and limits, not the state machines:
they belong to the implementations under test.
"""
