# Sourced by bin/audit, bin/lock and bin/sbom: brings the tools of requirements-tools.txt, pinned like all else, into a
# directory that is gone with the script. POSIX sh; sets $tools. An argument names another Python than python3.

bring_tools() {
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    "${1:-python3}" -m venv "$tools"
    "$tools/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-tools.txt
}
