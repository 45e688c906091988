"""A store on a URL: the truth lies there, the work happens in this machine's copy of it.

`states` what lies at the URL and how two histories meet, pure · `trouble` what a failure means · `bucket` the few
requests that are made · `folder` one task's artifacts · `rows` the row cache · `share` what everybody else calls.
"""
