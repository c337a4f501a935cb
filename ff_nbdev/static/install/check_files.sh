echo "Checking @files@ files"
[ -f "$here/SHA256SUMS" ] && [ "$(wc -l < "$here/SHA256SUMS")" -eq @files@ ] &&
  [ "$(cd "$here" && find . -type f ! -path ./SHA256SUMS | wc -l)" -eq @files@ ] ||
  die 'files were added or are missing: copy the bundle again.'
bad=$(cd "$here" && LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1 | cut -d: -f1)
[ -z "$bad" ] || die "$bad is damaged: copy the bundle again."
