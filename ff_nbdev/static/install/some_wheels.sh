packages="$to/lib/python@python@/site-packages"
"$python" - > "$packages/of_the_node.pth" <<'EOF'
import sys
print(*(p for p in sys.path if p.endswith(("site-packages", "dist-packages"))), sep="\n")
EOF
missing=$(cd / && unset PYTHONPATH && "$to/bin/python" - @lacking@ <<'EOF'
import sys
from importlib.metadata import PackageNotFoundError, version
from pip._vendor.packaging.requirements import Requirement
def fits(r):
    try: return r.specifier.contains(version(r.name), prereleases=True)
    except PackageNotFoundError: return False
print(", ".join(str(r) for r in map(Requirement, sys.argv[1:]) if not fits(r)))
EOF
)
[ -z "$missing" ] ||
  die "$python lacks what this bundle leaves out ($missing): give another Python as the second word, \
or make a bundle that holds it."
