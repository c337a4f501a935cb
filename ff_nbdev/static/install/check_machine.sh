[ "$(uname -m)" = @arch@ ] ||
  die "this bundle is for @arch@, and this machine is $(uname -m): make a bundle with --platform."
libc=$("$python" -c 'import platform; print(*platform.libc_ver())')
case $libc in glibc\ 2.*) minor=${libc#glibc 2.} ;; *) minor=0 ;; esac
[ "${minor%%.*}" -ge @glibc@ ] ||
  die "the wheels need glibc 2.@glibc@ or newer, and this machine has $libc: make a bundle with an older --platform."
command -v sha256sum >/dev/null || die 'sha256sum is not here, and without it the files cannot be checked.'
