"""Reading a run, whether it has ended or not; nothing here writes its journal.

result             what users get, with tables and best models
tables             the tables of a run as data frames
csv_text           a table as CSV
model_export       a model as files of its own
plain_models       a model of backend "python", in any program
tensorboard        event files
status             a run at a moment
report_contents    what the report shows, from the ledger
methods_paragraph  a paragraph for a paper's methods section
worker_timeline    when workers were there
time_spent         where the time went
"""
