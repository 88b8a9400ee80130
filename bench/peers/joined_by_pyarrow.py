"""`python joined_by_pyarrow.py TABLE RESULTS OUT`: what `mistral-batch results` does, for results without a fault, in memory by pyarrow."""

import sys

import pyarrow
from pyarrow import compute, json, parquet

table, results, out = sys.argv[1:]
lines = json.read_json(results)
choice = compute.list_element(compute.struct_field(lines["response"], ["body", "choices"]), 0)
answers = pyarrow.table(
    {
        "review": lines["custom_id"],
        "answer": compute.struct_field(choice, ["message", "content"]),
        "error": lines["error"].cast(pyarrow.string()),
    }
)
rows = parquet.read_table(table)
rows = rows.append_column("row", pyarrow.array(range(len(rows))))
joined = rows.join(answers, "review", join_type="left outer").sort_by("row").drop_columns(["row"])
parquet.write_table(joined, out)
