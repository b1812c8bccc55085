"""Requests to the HTTP API of the coordinator."""

import aiohttp

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
BODY = b'{ "model":"tiny",  "messages": [], "emoji": "\xf0\x9f\x90\xa2" }'


async def post_chat(http: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    return await http.post(CHAT, data=BODY)
