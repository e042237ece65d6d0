#!/bin/sh
# Install what uv.lock names for the extras in $EXTRAS into $VIRTUAL_ENV, without the project itself.
#
# The wheel of PyTorch on PyPI is the one for CUDA, with gigabytes of libraries. $TORCH_BACKEND says
# which to take: "cuda" that one, exactly as it is locked; anything else is a backend that uv knows
# ("cpu", "cu130", ...), from PyTorch's own index, in the version that is locked. All other packages
# are those of the lock in any case.
#
# Where PyTorch's index is not reachable, $TORCH_FIND_LINKS is a folder that holds a wheel, and
# $TORCH_VERSION its version.
set -eu

extras=""
for extra in $EXTRAS; do
  extras="$extras --extra $extra"
done
locked() {
  # shellcheck disable=SC2086 # several words
  uv export --quiet --locked --no-dev --no-emit-project --no-header --no-annotate $extras "$@"
}

uv venv --quiet --no-project "$VIRTUAL_ENV"
trap 'rm -f "$VIRTUAL_ENV/.lock"' EXIT
all=$(mktemp)
locked --no-hashes >"$all"
torch=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$all")

if [ -z "$torch" ] || [ "${TORCH_BACKEND:-cpu}" = cuda ]; then
  locked >"$all.hashed"
  uv pip install --no-deps --require-hashes -r "$all.hashed"
  exit
fi

# All but PyTorch and what only PyTorch needs; then PyTorch, and what it needs in the build for this
# backend, at the versions of the lock where the lock names them.
locked --prune torch >"$all.hashed"
uv pip install --no-deps --require-hashes -r "$all.hashed"
sed '/^torch==/d' "$all" >"$all.others"
wanted="torch==${TORCH_VERSION:-$torch}"
if [ -n "${TORCH_FIND_LINKS:-}" ]; then
  uv pip install --no-deps --no-index --find-links "$TORCH_FIND_LINKS" "$wanted"
  uv pip install --constraint "$all.others" "$wanted"
else
  uv pip install --torch-backend "${TORCH_BACKEND:-cpu}" --constraint "$all.others" "$wanted"
fi
