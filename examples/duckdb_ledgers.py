"""SQL over the ledgers of many images: which tools were called, how often, and with what consequences.

::

    pip install pfreg duckdb
    python examples/duckdb_ledgers.py s3://bucket/agents/a s3://bucket/agents/b
"""

from __future__ import annotations

import sys

import duckdb

import pfreg

QUERY = """
    select tool_id, side_effect_class, count(*) as calls, count(distinct image) as images
    from ({ledgers}) where tool_id is not null group by all order by calls desc
"""
LEDGER = """
    select '{name}' as image, tool_id, side_effect_class
    from read_json('{name}://effects/ledger.jsonl', format='newline_delimited',
                   columns={{tool_id: 'varchar', side_effect_class: 'varchar'}})
"""


def main(images: list[str]) -> None:
    """Register each image as a filesystem of its own, and print one table over all of them."""
    with duckdb.connect() as database:
        names = [f"image{number}" for number in range(len(images))]
        for name, image in zip(names, images, strict=True):
            # DuckDB tells filesystems apart by their scheme, so each image gets one.
            kind = type(name, (pfreg.PfimgFileSystem,), {"protocol": name})
            database.register_filesystem(kind(fo=image))
        print(database.sql(QUERY.format(ledgers=" union all ".join(LEDGER.format(name=name) for name in names))))


if __name__ == "__main__":
    main(sys.argv[1:])
