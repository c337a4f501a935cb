pip install -q --no-index --no-deps --ignore-installed "$here"/wheels/*.whl ||
  die 'pip could not install the wheels: see above.'
