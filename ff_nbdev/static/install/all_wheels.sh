pip install -q --no-index --find-links "$here/wheels" @roots@ ||
  die 'pip could not install from the wheels: see above.'
