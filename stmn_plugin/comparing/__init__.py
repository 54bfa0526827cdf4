"""Tables of several runs: their rows, the runs that they need, and the outcomes.

``variants.py`` holds the rows as data, ``run_plan.py`` gives each its run folders and
``existing_runs.py`` takes folders that the user names. ``run_queue.py`` trains and tests what
``stored_results.py`` does not find, and ``result_tables.py`` writes the outcomes.
"""
