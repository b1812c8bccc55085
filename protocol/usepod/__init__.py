"""The JSON dialect of the Use Pod marketplace: the agent's side and the coordinator's.

Each message is one JSON object in one text message. The dialect has no offsets, acknowledgements,
windows, resumption or drain, and no status or content type of a response.
"""
