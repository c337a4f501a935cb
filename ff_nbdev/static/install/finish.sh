[ ! -d "$here/text" ] || { mkdir -p "$to/cache/corpora"; cp -R "$here/text/." "$to/cache/corpora/"; }
[ ! -d "$here/models" ] || cp -R "$here/models" "$to/models"
mkdir -p "$to/cache"
cat > "$to/env.sh" <<EOF
# . '$to/env.sh': ff_nbdev @version@, which looks for nothing outside this folder
unset PYTHONPATH PYTHONHOME
export VIRTUAL_ENV='$to' PATH='$to/bin':"\$PATH" FF_NBDEV_CACHE='$to/cache' FF_NBDEV_MODELS='$to/models'
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1
EOF
[ ! -d "$to/models/hub" ] || echo "export HF_HUB_CACHE='$to/models/hub'" >> "$to/env.sh"
(. "$to/env.sh"; ff-nbdev --version) || die 'it was installed and does not start: see above.'
trap - EXIT
echo "Ready: . '$to/env.sh'"
