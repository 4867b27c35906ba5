"""Conversations kept by the server, and replies that go on when nobody watches.

store.py     conversations, their branching messages and the search over them, in one SQLite file
replies.py   the replies being written: tasks of the server's, whose events any number of readers follow
writers.py   what writes a reply: a model, or a collection of documents
export.py    a conversation as Markdown or JSON
routes.py    /api/hornbook/conversations
"""
