"""Collections of documents over HTTP: put files in, search them, ask them, and open the passage behind every citation.

    HOME/collections/NAME/collection.sqlite      what the documents are called and how far they are (catalogue.py)
                          files/ID.pdf           each by the SHA-256 of what it holds
                          incoming/              uploads under way; emptied when the collection is opened
                          index/                 hornbook.retrieve.index.Index

Forms. Every offset counts characters (Unicode code points) of the document's text, from 0, ends exclusive: in JavaScript
``Array.from(text)``, not ``text.slice``. All text is data without control characters: show it, never parse it as markup.
Times are seconds since 1970. An error is ``{"error": {"what", "remedy", "request"}}`` with a fitting status.

Collection  {"name", "title", "description", "created", "documents", "waiting", "failed", "passages", "bytes",
             "embedder", "model" | null, "busy": bool, "notices": [str]}
            name: letters and digits of any language, "-" and "_", 1 to 64; its model name is "kb:NAME".
Document    {"id", "name", "folder", "url" | null, "size", "sha256", "media_type", "added", "state", "error" | null,
             "title", "pages" | null, "passages", "characters", "indexed" | null}
            state: "waiting" | "reading" | "ready" | "failed" (error says why) ; folder: "" or "a/b", for display only.
Job         {"id", "collection", "kind": "ingest" | "reindex", "state": "queued" | "running" | "done" | "failed" | "stopped",
             "stage": "" | "looking" | "reading" | "embedding" | "waiting", "done", "total", "file" | null (a display name),
             "queued", "began" | null, "ended" | null, "error" | null,
             "report": null | {"added", "updated", "removed", "unchanged", "failed", "passages", "seconds"}}
Hit         {"n", "score", "parts": {"dense"?, "sparse"?}, "document": {"id", "name", "folder", "title"}, "text", "start",
             "end", "page" | null, "section", "line" | null, "spans": [[start, end]]}
            spans: where words of the query stand, within ``text``.
Citation    {"n", "document": {"id", "name", "folder", "title"}, "page" | null, "section", "start", "end", "quote"}
Sentence    {"text", "citations": [n], "support": 0..1, "quoted": bool}      quoted: the documents' own words
Answer      {"question", "answer", "sentences": [Sentence], "withheld": [Sentence], "citations": [Citation],
             "abstained": bool, "searched": {"documents", "passages", "hits"}, "model", "usage" | null, "timings"}

POST   /kb                                {"name"?, "title"?, "description"?, "embedder"?, "model"?} -> 201 Collection
                                          name or title; without a name it is made of the title. 409 where it exists.
GET    /kb                                -> {"collections": [Collection], "broken": [{"name", "what", "remedy"}]}
GET    /kb/{name}                         -> Collection
DELETE /kb/{name}                         -> 204
POST   /kb/{name}/documents               multipart/form-data; each file a part "files", its filename may be a relative path
                                          ("folder/sub/a.md": the folder is kept for display). A .zip is opened.
                                          -> 202 {"documents": [Document + {"duplicate": bool}], "skipped": [{"name", "reason"}],
                                          "errors": [{"name", "error", "remedy"}], "job": Job | null}
                                          422 with the same members beside "error" where nothing could be taken.
POST   /kb/{name}/documents/url           {"url"} -> 202, the same form
GET    /kb/{name}/documents               ?state=&offset=0&limit=100 -> {"documents": [Document], "total"}
GET    /kb/{name}/documents/{id}          -> Document
GET    /kb/{name}/documents/{id}/file     the file itself, always as a download
DELETE /kb/{name}/documents/{id}          -> 204; gone from every search at once
GET    /kb/{name}/documents/{id}/text     ?start=&end=&around=1500 -> {"document": Document, "length", "start", "end", "page",
                                          "section", "before", "quote", "after", "before_start", "after_end",
                                          "places": [{"start", "end", "kind", "page", "section", "line"}]}
                                          before + quote + after is the text from before_start to after_end; ``places`` are
                                          the pieces (kind: text | heading | table | list | code) that it touches.
GET    /kb/{name}/jobs                    -> {"jobs": [Job]}, newest first
GET    /kb/{name}/jobs/events             SSE: ``event: job`` {Job} ; ``event: document`` {Document} ; begins with the latest
                                          job; a comment line every 15 s; ``event: idle`` {} when nothing is left to do, and
                                          then the stream ends.
DELETE /kb/{name}/jobs/{id}               stop it -> Job
POST   /kb/{name}/reindex                 -> 202 Job; all documents are read and embedded again
POST   /kb/{name}/search                  {"query", "k"?: 10, "mode"?: "hybrid" | "dense" | "sparse", "documents"?: [id]}
                                          -> {"query", "hits": [Hit], "searched": {"documents", "passages", "hits"}}
POST   /kb/{name}/ask                     {"question", "k"?: 5, "strict"?: true, "model"?, "stream"?: true}
                                          stream: SSE, in this order
                                            event: retrieval  {"hits": [Hit], "searched": {...}, "answers": bool}
                                            event: draft      {"text"}   what the model writes, not checked yet (may be withheld)
                                            event: token      {"text"}   checked and final; joined it is Answer.answer, with [n]
                                            event: answer     Answer     the last
                                            event: error      the error's form, instead, after which nothing comes
                                          stream=false: Answer + {"hits": [Hit]}

``answer_chat`` (chat.py) is the same for the model name ``kb:NAME``; citations are annotations of the message there.
"""

from __future__ import annotations

from hornbook.serve.kb.chat import PREFIX, answer_chat
from hornbook.serve.kb.routes import router

__all__ = ["PREFIX", "answer_chat", "router"]
