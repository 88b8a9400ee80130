"""From a table to a table with Mistral's batch jobs, and nothing is bought twice: the command `mistral-batch`, and the same as functions.

    sources     what a table's rows are            outcomes  what a line of a job's results says
    lines       the request of a row               join      a row for every row, with its answer
    check       what is wrong, before it is sent   tables    where the rows go
    tokens, prices, estimate                       steps     check, submit, watch, results, retry: what the command
    chunks      the requests, cut into jobs                  and the functions are both made of
    runs        a run on disk                      cli, screens  the command, and what it shows
    engine      carries a run out                  api       Mistral's contract, at the gateway or at Mistral

It speaks Mistral's contract alone: nothing here imports the gateway.
"""
