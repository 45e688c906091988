"""New train rows for weak sections: asked for, made, vetted, judged, kept or taken back.

`request` says what to make, `teachers` make it, `vetting` lets rows in, `overlay` holds them in the store, `rounds`
remembers what was tried and undoes it, `outcome` judges it. `stage` puts these together for the orchestration.
"""
