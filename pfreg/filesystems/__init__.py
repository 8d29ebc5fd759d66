"""The fsspec filesystems that pfreg brings along, because nobody else's can write an image.

Rules
-----
- A filesystem here imports fsspec, the client library of its registry, ``errors`` and ``digest``, and nothing else of
  pfreg: it knows no engine, store or manifest, and is usable on its own.
- Its **transaction is the commit**. ``with fs.transaction:`` stages files as they are written; its end publishes all of
  them at once, or nothing. Such a class says ``transaction_is_commit = True``, and after the block ``fs.committed``
  holds what now names the commit (a commit hash, a manifest digest, a root CID).
- Where a commit *replaces* what was there (an OCI manifest, an IPFS root), the class has ``keep(paths)``: inside a
  transaction it names files that are there already, so that they become part of the commit without being sent.
"""
