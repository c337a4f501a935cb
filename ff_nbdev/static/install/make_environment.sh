mkdir -p "$(dirname "$to")"
[ "$(df -Pk "$(dirname "$to")" | awk 'NR == 2 {print $4}')" -gt @need@ ] ||
  die "$to needs @need_mb@ MB, and the disk has less: give a folder on another disk."
trap 'rm -rf "$to"' EXIT; trap 'exit 130' HUP INT TERM
echo "Installing into $to"
"$python" -m venv "$to" >/dev/null 2>&1 ||
  die "$python could not make a virtual environment: on Debian and Ubuntu, python3-venv must be installed."
pip() {
  (unset PYTHONPATH PYTHONHOME
   PIP_CONFIG_FILE=/dev/null "$to/bin/python" -m pip --isolated --disable-pip-version-check --no-cache-dir "$@")
}
