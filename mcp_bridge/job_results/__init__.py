"""The results of a job as a call wants them: the way of rows from an answer or from files to a page of them and a summary of all.

`source` has the rows, with `files`; `order` sorts them; `rows` reads one at the `places` that the document names; `page` keeps what is
shown and `error_groups` counts all; `view` says what is shown of these, with the sentences of `notes`, and `tool_result` makes a
result of it.
"""
