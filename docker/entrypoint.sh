#!/usr/bin/env bash
# The environment of ROS 2 (where the image has an installation) and of this repository, then the command that is given.
set -eo pipefail # not -u: the set-up scripts of ROS read variables that are not set

prepare() { # a function, so that the scripts see none of the command's words
    local file
    for file in /opt/ros/*/setup.bash; do
        # shellcheck source=/dev/null
        if [[ -f "$file" ]]; then source "$file"; fi
    done
    # shellcheck source=tools/env.sh
    source "$(dirname "${BASH_SOURCE[0]}")/../tools/env.sh"
}

prepare
exec "$@"
