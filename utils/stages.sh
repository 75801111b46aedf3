# The stage driver that every run.sh sources: `options "$@"`, then one line `stage N "Title" command...` after another.
# `for_each_seed N "Title SEED" command... SEED` is such a line for each number in the setting `seed`, which takes SEED's place.
# shellcheck shell=bash
# A setting is a line `name=value` between `. stages.sh` and `options`; `--name value` changes it.
# Before the first stage starts, `asrtts --check-commands` checks the commands of all that will run, also of recipes in them.

[ -n "${BASH_VERSION-}" ] || { echo "$0: is for bash; type ./${0##*/} or bash ${0##*/}" >&2 && exit 2; }
set -u
_recipe=${0##*/} _from=0 _to='' _mode=run _given=()
last=5  # where a recipe ends without --stop-stage: what follows (distillation, a board) is asked for

options() {
  local settings stages name value words=("$@")
  settings=$(sed -n '/^options /q; s/^\([a-z][a-z0-9_]*\)=.*/\1/p' "$_recipe")
  stages=$(sed -nE 's/^(stage|for_each_seed) ([0-9]*) .*/\2/p' "$_recipe" | uniq)
  while (($#)); do
    case $1 in
      -h | --help) _help && _mode=list && shift && continue ;;
      --list) _mode=list && shift && continue ;;
      --dry-run | --dry_run) _mode=dry && shift && continue ;;
      --commands) _mode=commands && shift && continue ;; # for _check
      --?*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --?*) ;;
      *) _refuse "unexpected argument '$1' (settings are given as --name value; see --help)" ;;
    esac
    name=${1#--} name=${name//-/_}
    [[ $name =~ ^[a-z][a-z0-9_]*$ && " stage stop_stage ${settings//$'\n'/ } " == *" $name "* ]] ||
      _refuse "unknown option '$1'$(_nearest "$name" list dry_run help stage stop_stage "$settings")"
    [[ $# -gt 1 && ${2-} != --* ]] || _refuse "$1 wants a value"
    value=$2
    if [[ $name =~ ^(stop_)?stage$ ]] && [[ ! $value =~ ^[0-9]+$ || " ${stages//$'\n'/ } " != *" $value "* ]]; then
      _refuse "$1: there is no stage '$value' (stages: ${stages//$'\n'/ })"
    fi
    case $name in
      stage) _from=$value ;;
      stop_stage) _to=$value ;;
      *) printf -v "$name" %s "$value" && _given+=("--$name" "$value") ;;
    esac
    shift 2
  done
  [[ -n $_to ]] || { [[ $_mode == list ]] || ((_from > last)) && _to=99 || _to=$last; }
  ((_from <= _to)) || _refuse "--stage $_from comes after --stop-stage $_to: nothing to do"
  [[ $_mode == run ]] || return 0
  _find_asrtts
  [[ ${ASRTTS_CHECKED-} == "$(_quoted "./$_recipe" ${words+"${words[@]}"})" ]] || _check ${words+"${words[@]}"}
}

stage() { # number, title, command...
  local number=$1 title=$2 log status writer
  shift 2
  ((number >= _from && number <= _to)) || return 0
  case $_mode in
    list) printf '%3d  %s\n' "$number" "$title" && return ;;
    dry) _quoted "$@" && return ;;
    commands) _command "$number" "$title" "$@" && return ;;
  esac
  log=log/$number-${title,,} log=${log//[^a-z0-9\/]/-}.log
  mkdir -p log
  printf '\n== stage %s: %s\n%s\n' "$number" "$title" "$(_quoted "$@")"
  # Through a pipe, so that the log holds what the screen shows; progress bars are told of the terminal behind it.
  printf '\n# %(%F %T)T in %s%s\n%s\n' -1 "$PWD" "$_activate" "$(_quoted "$@")" >>"$log"
  trap '' INT # while the log's writer starts: it inherits this, and a Ctrl-C cannot take the last lines from it
  exec 3> >(_last_states >>"$log")
  writer=$!
  trap - INT
  [[ ! -t 1 ]] || export FORCE_COLOR=${FORCE_COLOR-1}
  ASRTTS_CHECKED=$(_quoted "$@") "$@" 2>&1 3>&- | tee -i /dev/fd/3
  status=${PIPESTATUS[0]}
  exec 3>&- && wait "$writer"
  ((status == 0)) && return
  {
    printf '\n%s: stage %s (%s) stopped with status %s; the end of %s:\n' "$_recipe" "$number" "$title" "$status" "$log"
    tail -n 5 "$log" | sed 's/^/  | /'
    printf 'again from here:   %s\nthis command alone: %s\n' \
      "$(_quoted "./$_recipe" --stage "$number" "${_given[@]}")" "$(_quoted "$@")"
  } >&2
  exit "$status"
}

for_each_seed() { # number, title, command...
  local each
  [[ ${seed-} =~ ^[0-9]+(\ +[0-9]+)*$ ]] || _refuse "--seed '${seed-}': wanted a whole number, or several, e.g. '1 2 3'"
  for each in $seed; do stage "${@//SEED/$each}"; done
}

_check() { # every command that will be started, before the first of them is
  local commands
  mapfile -d '' -t commands < <("$BASH" "./$_recipe" "$@" --commands)
  wait $! || exit 2 # it has said why
  ((${#commands[@]})) || return 0
  printf '%s\0' "${commands[@]}" | asrtts --check-commands "./$_recipe" ${_given+"${_given[@]}"} >/dev/null
  [[ ${PIPESTATUS[1]} == 0 ]] || exit 2
}

_command() { # number, title, command...: what _check reads; of a recipe in a recipe, the commands of that one
  local number=$1 title=$2
  shift 2
  if [[ $1 == */* ]] && grep -qsE '^\. .*/stages\.sh' "$1"; then
    "$@" --commands || exit
  else
    printf '%s\0' "$number" "$title" "$#" "$@"
  fi
}

_quoted() { # a command as it can be typed
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

_last_states() { # what stays on a screen: a progress bar returns to the start of its line and writes over it
  sed -u -e $'s/\r*$//' -e $'s/.*\r//' -e $'s/\e\\[[0-9;?]*[A-Za-z]//g'
}

_find_asrtts() { # recipes run from a fresh clone after `make demo`, with no environment activated
  local top
  top=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd) && _activate=
  command -v asrtts >/dev/null && return
  [[ -x $top/.venv/bin/asrtts ]] || _refuse "asrtts is not on the PATH: activate its environment$([[ ! -f $top/Makefile ]] || echo ", or type 'make demo' in $top")"
  PATH=$top/.venv/bin:$PATH && _activate="; . $top/.venv/bin/activate"
}

_help() {
  sed -n '2,${/^#/!q; s/^# \{0,1\}//p;}' "$_recipe"
  printf '\nSettings (--name value):\n'
  sed -n '/^options /q; s/^\([a-z][a-z0-9_]*=.*\)/  --\1/p' "$_recipe"
  printf '\n  --stage N  --stop-stage N   from and to a stage (without: to %s)\n  --list  --dry-run  --help   the stages; their commands; this\n\nStages:\n' "$last"
}

_nearest() { # the end of an error line: what may have been meant, of the names that follow
  python3 -c 'import difflib, sys
names = " ".join(sys.argv[2:]).replace("_", "-").split()
near = difflib.get_close_matches(sys.argv[1].replace("_", "-"), names, 1, 0.5)
print("".join(f"; did you mean --{n}?" for n in near) + " (options: --" + ", --".join(names) + ")")' "$@"
}

_refuse() {
  printf '%s: %s\n' "./$_recipe" "$1" >&2
  exit 2
}
