# The environment of this repository, for bash:  source tools/env.sh  (from any folder).
#
# It puts the virtual environment, ROS 2 (the sourced installation, else the wheels in the virtual environment), the
# built workspace and a `ros2` command on the paths. Values that are already set (MUJOCO_GL, ROS_DOMAIN_ID, ...) win.

if [ -z "${BASH_VERSION:-}" ]; then
    echo "env.sh: wanted bash, got another shell: start bash and source it there." >&2
    return 1
fi

_alam_env() {
    local root venv file prefix package
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
    venv="$root/.venv"
    if [[ ! -x "$venv/bin/python" ]]; then
        echo "env.sh: no virtual environment in $venv: run \`make setup\` first." >&2
        return 1
    fi

    # A genuine ROS 2 is one whose `ros2` is not this repository's stand-in.
    local genuine=""
    file="$(type -P ros2 || true)"
    if [[ -n "${ROS_DISTRO:-}" && -n "$file" && "$(readlink -f "$file")" != "$root"/* ]]; then genuine=1; fi

    export VIRTUAL_ENV="$venv"
    unset PYTHONHOME
    _alam_front PATH "$venv/bin"
    if [[ -z "$genuine" ]]; then
        # The wheels restart every Python process unless they find both of these.
        export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
        for file in "$venv"/lib/python3*/site-packages/ros_*.libs "$venv/lib"; do
            [[ -d "$file" ]] && _alam_front LD_LIBRARY_PATH "$file"
        done
        _alam_front AMENT_PREFIX_PATH "$venv"
        _alam_front CMAKE_PREFIX_PATH "$venv"
        _alam_back PATH "$root/tools/bin" # the stand-in for `ros2`
    fi

    # The built packages first, then (in front of them) the sources of the Python ones: an edit is live without a build.
    for prefix in "$root"/ros2_ws/install/*/; do
        prefix="${prefix%/}"
        [[ -d "$prefix/share" ]] || continue
        _alam_front AMENT_PREFIX_PATH "$prefix"
        [[ -d "$prefix/lib" ]] && _alam_front LD_LIBRARY_PATH "$prefix/lib"
        for file in "$prefix"/lib/python3*/site-packages; do
            [[ -d "$file" ]] && _alam_front PYTHONPATH "$file"
        done
    done
    for package in "$root"/ros2_ws/src/*/; do
        package="${package%/}"
        [[ -f "$package/${package##*/}/__init__.py" ]] && _alam_front PYTHONPATH "$package"
    done

    export ALAM_CHECKPOINTS="${ALAM_CHECKPOINTS:-$root/checkpoints}"

    # Software rendering also where there is a display: a window library wants the main thread, and the policy wants the
    # pixels it was trained on. One thread a renderer (the policy needs the other core); discovery stays on this host.
    export MUJOCO_GL="${MUJOCO_GL:-osmesa}"
    export LP_NUM_THREADS="${LP_NUM_THREADS:-1}"
    export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
}

# _alam_front NAME FOLDER: put FOLDER first in the colon-separated variable NAME, once.
_alam_front() {
    local rest=":${!1:-}:"
    rest="${rest//":$2:"/:}"
    rest="${rest#:}"
    rest="${rest%:}"
    export "$1=$2${rest:+:$rest}"
}

# _alam_back NAME FOLDER: the same, last.
_alam_back() {
    local rest=":${!1:-}:"
    rest="${rest//":$2:"/:}"
    rest="${rest#:}"
    rest="${rest%:}"
    export "$1=${rest:+$rest:}$2"
}

_alam_env
_alam_status=$?
unset -f _alam_env _alam_front _alam_back
# shellcheck disable=SC2317
return "$_alam_status" 2>/dev/null || exit "$_alam_status"
