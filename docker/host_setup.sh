#!/usr/bin/env bash
# Prepares the robot computer itself (the host, not the container), once:  sudo docker/host_setup.sh
#
#   --check      say what would change, change nothing (also together with --undo)
#   --undo       remove what this script has put, and nothing else
#   --root DIR   work in DIR instead of /: files alone, no command of the system is called
#
# It puts every file below docker/host/ at the same place below /, makes the group `realtime`, and loads what they say.
# What it put is written in /var/lib/alam/host_setup.txt. A file that someone has edited since is never touched.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
RECORD=/var/lib/alam/host_setup.txt # lines: file PATH SHA256, folder PATH -, group NAME -

refuse() { # EXIT_CODE SENTENCE
    echo "host_setup: $2" >&2
    exit "$1"
}

root="" undo="" dry=""
while (($#)); do
    case "$1" in
        --check) dry=1 ;;
        --undo) undo=1 ;;
        --root)
            [[ -d "${2:-}" ]] || refuse 2 "--root: wanted a folder that exists, got '${2:-}'."
            root="$(cd "$2" && pwd -P)"
            root="${root%/}"
            [[ -n "$root" ]] || refuse 2 "--root: wanted a folder other than /, which is what it works in without --root."
            shift
            ;;
        *) refuse 2 "wanted --check, --undo or --root DIR, got '$1'." ;;
    esac
    shift
done
if [[ -z "$root$dry" && "$EUID" -ne 0 ]]; then
    refuse 1 "wanted to be run by root, got user $(id -un): run it with sudo, or with --check to see what it would do."
fi

changes=0 failures=0
tell() { # WHAT: done, or only said
    changes=$((changes + 1))
    echo "${dry:+would }$1"
}
sum_of() { sha256sum <"$1" | cut -d ' ' -f 1; }
recorded() { # KIND PATH -> its third word, nothing when it is not in the record
    [[ ! -f "$root$RECORD" ]] || awk -v kind="$1" -v path="$2" '$1 == kind && $2 == path { print $3 }' "$root$RECORD"
}
forget() { # KIND PATH
    awk -v kind="$1" -v path="$2" '!($1 == kind && $2 == path)' "$root$RECORD" >"$root$RECORD.new"
    mv "$root$RECORD.new" "$root$RECORD"
}
remember() { # KIND PATH WORD
    forget "$1" "$2"
    echo "$1 $2 $3" >>"$root$RECORD"
}
system() { # COMMAND...: of the running system; its failure is told and does not stop the rest
    [[ -z "$root$dry" ]] || return 0
    "$@" || {
        echo "host_setup: \`$*\` failed; the files are in place and count from the next start of the machine." >&2
        failures=$((failures + 1))
    }
}

made=() # folders made before the record exists
make_folder() { # PATH, with its parents
    [[ ! -d "$root$1" ]] || return 0
    make_folder "$(dirname "$1")"
    mkdir "$root$1"
    chmod 755 "$root$1"
    made+=("$1")
}
write_made() { # the folders into the record
    local folder
    for folder in "${made[@]}"; do remember folder "$folder" -; done
    made=()
}
start_record() {
    [[ -z "$dry" && ! -f "$root$RECORD" ]] || return 0
    make_folder "$(dirname "$RECORD")"
    : >"$root$RECORD"
    write_made
}

install_file() { # PATH
    local path="$1" want have
    want="$(sum_of "$HERE/host$path")"
    if [[ ! -e "$root$path" ]]; then
        tell "put $path"
    else
        have="$(sum_of "$root$path")"
        [[ "$have" != "$want" ]] || return 0
        if [[ "$have" != "$(recorded file "$path")" ]]; then
            echo "keeps $path: it is not as this script wrote it; remove it to get the one of this repository"
            return 0
        fi
        tell "update $path"
    fi
    [[ -z "$dry" ]] || return 0
    start_record
    make_folder "$(dirname "$path")"
    write_made
    install -m 644 "$HERE/host$path" "$root$path"
    remember file "$path" "$want"
}
remove_file() { # PATH SHA256
    if [[ -e "$root$1" ]]; then
        if [[ "$(sum_of "$root$1")" != "$2" ]]; then
            echo "keeps $1: it is not as this script wrote it"
            return 0
        fi
        tell "remove $1"
        [[ -n "$dry" ]] || rm "$root$1"
    fi
    [[ -n "$dry" ]] || forget file "$1"
}

apply() { # let the running system read what was put or removed
    system systemctl daemon-reload
    system sysctl --quiet --system
    system udevadm control --reload
    system udevadm trigger --subsystem-match=usb --action=change
}

install_all() {
    local path sum
    while read -r path; do install_file "/$path"; done < <(cd "$HERE/host" && find . -type f -printf '%P\n' | sort)
    if [[ -f "$root$RECORD" ]]; then # of an older version of this repository
        while read -r path sum; do
            [[ -f "$HERE/host$path" ]] || remove_file "$path" "$sum"
        done < <(awk '$1 == "file" { print $2, $3 }' "$root$RECORD")
    fi
    if [[ -z "$root" ]] && ! getent group realtime >/dev/null; then
        tell "make the group realtime"
        if [[ -z "$dry" ]]; then
            start_record
            groupadd --system realtime
            remember group realtime -
        fi
    fi
    ((changes)) || return 0
    apply
    system modprobe -a can can_raw gs_usb
    system systemd-tmpfiles --create /etc/tmpfiles.d/alam.conf
    [[ -n "$root$dry" ]] || echo "Pull the CAN adapter and plug it in again: it is then can_arm, and up. Who starts the driver on
this host without a container: sudo usermod -aG realtime,plugdev NAME, and log in anew."
}

undo_all() {
    local path sum
    [[ -f "$root$RECORD" ]] || return 0
    system systemctl stop 'alam-can@*.service'
    while read -r path sum; do remove_file "$path" "$sum"; done < <(awk '$1 == "file" { print $2, $3 }' "$root$RECORD")
    if [[ -z "$root" && -n "$(recorded group realtime)" ]]; then
        tell "remove the group realtime"
        if [[ -z "$dry" ]]; then
            system groupdel realtime
            forget group realtime
        fi
    fi
    apply
    [[ -z "$dry" ]] || return 0
    local folders
    mapfile -t folders < <(awk '$1 == "folder" { print $2 }' "$root$RECORD" | sort -r)
    if ! grep -qv '^folder ' "$root$RECORD"; then rm "$root$RECORD"; fi
    for path in "${folders[@]}"; do
        [[ ! -d "$root$path" ]] || rmdir --ignore-fail-on-non-empty "$root$path"
    done
}

if [[ -n "$undo" ]]; then undo_all; else install_all; fi
((changes)) || echo "nothing to do"
((failures == 0))
