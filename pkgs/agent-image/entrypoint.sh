#!/bin/sh
# What an agent's job runs: get the tokens, get the repository, switch to the branch, run the agent's
# command on the task, commit, push, and leave summary.md and changes.patch in /artifacts.
#
#   FLASHPODS_TASK, FLASHPODS_CONTEXT   what to do; the command has both on its standard input too
#   FLASHPODS_GIT_BRANCH                where the work goes; made if it is not there
#   FLASHPODS_AGENT_COMMAND             the command and its arguments, split at blanks
#   FLASHPODS_GIT_URL                   what to clone if /work brings no repository of its own
#   FLASHPODS_TOKEN_SOCKET              set by the host when jobs have an identity; else: no tokens
#
# /work may be: a tree with its .git (its origin is used); nothing (FLASHPODS_GIT_URL is cloned); or a
# tree without .git (laid over a clone of FLASHPODS_GIT_URL as the uncommitted changes that it has).
#
# The exit code is the agent command's, or one of these, of which the host makes the job's error
# (jobs/agent.py). They lie above every code that a shell gives to a signal; an agent command that
# ends with one of them counts as 1.
#
#   201 spire_attestation_timeout   203 git_clone_failed    205 git_push_failed
#   202 token_exchange_failed       204 git_branch_failed   206 git_commit_failed
#                                                           207 agent_report_failed
#
# After a failed or stopped command nothing is pushed; what it changed is in changes.patch.
# Nothing that comes from outside is ever a part of a command line that a shell reads.
set -uf
unset tokens # an exported one would pass the tokens to every process

# The first three differ in tests only.
work=${FLASHPODS_WORK:-/work}
artifacts=${FLASHPODS_ARTIFACTS:-/artifacts}
helper=${FLASHPODS_HELPER:-/usr/local/bin/flashpods-token}
command=${FLASHPODS_AGENT_COMMAND:-claude -p --dangerously-skip-permissions}
branch=${FLASHPODS_GIT_BRANCH:-}
url=${FLASHPODS_GIT_URL:-}
patience=4 # seconds for the command to end after a SIGTERM; the host's SIGKILL comes after 10

tokens='' base='' child='' stopped='' outcome=''

say() { printf '[flashpods] %s\n' "$*"; }

# Ends the job before the command ran.
fail() {
  say "$2: $3"
  report "$2" "$3" ''
  exit "$1"
}

# git, with nothing in its way that the tree's own configuration may hold.
repo() {
  git -C "$work" -c core.hooksPath=/dev/null -c commit.gpgSign=false -c core.fsmonitor=false \
    -c core.quotePath=false "$@"
}

prepare_git() {
  export GIT_TERMINAL_PROMPT=0 GIT_ASKPASS=true SSH_ASKPASS=true
  export GIT_HTTP_LOW_SPEED_LIMIT=1 GIT_HTTP_LOW_SPEED_TIME=60 # a server that went silent
  export GIT_AUTHOR_NAME="${GIT_AUTHOR_NAME:-Flashpods agent}"
  export GIT_AUTHOR_EMAIL="${GIT_AUTHOR_EMAIL:-agent@flashpods.local}"
  export GIT_COMMITTER_NAME="${GIT_COMMITTER_NAME:-$GIT_AUTHOR_NAME}"
  export GIT_COMMITTER_EMAIL="${GIT_COMMITTER_EMAIL:-$GIT_AUTHOR_EMAIL}"
  # A laptop's origin is often git@host:path, for which jobs have no key: take https instead.
  for host in ${FLASHPODS_GIT_HOSTS:-}; do
    name=${host#*://}
    git_setting "url.$host/.insteadOf" "git@$name:"
    git_setting "url.$host/.insteadOf" "ssh://git@$name/"
  done
}

# Adds one setting to those that the host gives by the environment.
git_setting() {
  count=${GIT_CONFIG_COUNT:-0}
  export "GIT_CONFIG_KEY_$count=$1" "GIT_CONFIG_VALUE_$count=$2" "GIT_CONFIG_COUNT=$((count + 1))"
}

get_tokens() {
  if [ -z "${FLASHPODS_TOKEN_SOCKET:-}" ]; then
    say 'this host gives jobs no identity: going on without tokens'
    return
  fi
  tokens=$("$helper" env)
  case $? in
    0) ;;
    201) fail 201 spire_attestation_timeout 'SPIRE gave this job no identity in time' ;;
    *) fail 202 token_exchange_failed 'the token service gave this job no tokens' ;;
  esac
}

empty() { [ -z "$(ls -A "$work" 2>&1)" ]; }

# Leaves a repository with an origin in /work.
get_repository() {
  if [ ! -e "$work/.git" ]; then
    [ -n "$url" ] || fail 203 git_clone_failed \
      'no repository: push the tree with its .git, or set jobs.agent.git_url on the host'
    clone
  fi
  repo rev-parse --git-dir >/dev/null || fail 203 git_clone_failed "$work/.git is no repository"
  if ! repo remote get-url origin >/dev/null 2>&1; then
    [ -n "$url" ] || fail 203 git_clone_failed \
      "the tree's .git has no remote origin: add it, or set jobs.agent.git_url on the host"
    repo remote add -- origin "$url" || fail 203 git_clone_failed 'the origin can not be set'
  fi
}

clone() {
  say 'cloning'
  if empty; then
    git clone --quiet -- "$url" "$work" || fail 203 git_clone_failed "git clone ended with $?"
    return
  fi
  clone=$work/.flashpods-clone
  git clone --quiet --no-checkout -- "$url" "$clone" || fail 203 git_clone_failed "git clone ended with $?"
  { mv "$clone/.git" "$work/.git" && rmdir "$clone"; } || fail 203 git_clone_failed "$work can not be written"
  laid_over=yes
}

laid_over=''

get_branch() {
  case $branch in
    '' | -*) fail 204 git_branch_failed 'FLASHPODS_GIT_BRANCH is missing, or begins with -' ;;
  esac
  git check-ref-format "refs/heads/$branch" || fail 204 git_branch_failed 'the branch has no valid name'
  theirs=refs/remotes/origin/$branch
  repo ls-remote --exit-code --quiet origin "refs/heads/$branch" >/dev/null
  case $? in
    0) repo fetch --quiet --no-tags origin "+refs/heads/$branch:$theirs" ||
      fail 203 git_clone_failed 'the branch can not be fetched from origin' ;;
    2) theirs='' ;;
    *) fail 203 git_clone_failed 'origin does not answer, or refuses' ;;
  esac
  switch || fail 204 git_branch_failed "can not switch to $branch: see the log"
  base=$(repo rev-parse --verify --quiet HEAD) || base=$(git -C "$work" hash-object -t tree /dev/null)
}

switch() {
  if [ -n "$laid_over" ]; then
    lay_over
  elif repo show-ref --verify --quiet "refs/heads/$branch"; then
    repo switch --quiet --no-guess "$branch" &&
      { [ -z "$theirs" ] || repo merge --quiet --ff-only "$theirs" || ahead; }
  elif [ -n "$theirs" ]; then
    repo switch --quiet --no-track --create "$branch" "$theirs"
  else
    repo switch --quiet --create "$branch"
  fi
}

# The tree's branch may be ahead of origin's, but not apart from it: a push would be refused.
ahead() { repo merge-base --is-ancestor "$theirs" HEAD; }

# The tree as it was pushed becomes uncommitted changes on the branch. A file that only the branch has
# was more likely excluded from the push than deleted, so it is put back.
lay_over() {
  start=${theirs:-HEAD}
  if repo rev-parse --verify --quiet "$start" >/dev/null; then
    repo update-ref "refs/heads/$branch" "$start" || return
  fi
  repo symbolic-ref HEAD "refs/heads/$branch" || return
  repo rev-parse --verify --quiet HEAD >/dev/null || return 0 # an empty repository
  repo reset --quiet --mixed &&
    repo ls-files -z --deleted | repo checkout-index -z --stdin
}

prompt() {
  printf '%s\n' "${FLASHPODS_TASK:-}"
  [ -z "${FLASHPODS_CONTEXT:-}" ] || printf '\nContext:\n%s\n' "$FLASHPODS_CONTEXT"
  printf '\nWork in the current directory, a git repository. Do not commit or push: that is done for you.\n'
  printf 'At the end write a short summary of what you did to %s/summary.md.\n' "$artifacts"
}

# Runs the command in a process of its own, so that a signal to this one finds us waiting.
run_command() {
  say "running: $command"
  prompt | (
    cd "$work" || exit 126
    eval "$tokens"
    # shellcheck disable=SC2086 # split at blanks, as documented; set -f keeps * as it is
    exec $command
  ) &
  child=$!
  while :; do
    wait "$child"
    code=$?
    # A signal ends wait early: then wait for the command itself.
    if [ -z "$stopped" ] || ! kill -0 "$child" 2>/dev/null; then break; fi
  done
  child=''
  case $code in
    20[1-7]) say "the command ended with $code, which is reserved: it counts as 1" && code=1 ;;
  esac
}

# shellcheck disable=SC2317 # the traps call it
stop() {
  [ -z "$stopped" ] || return 0
  stopped=$1
  [ -n "$child" ] || exit "$stopped"
  say 'stopping'
  kill -TERM "$child" 2>/dev/null
  (sleep "$patience" && kill -KILL "$child" 2>/dev/null) &
}

# Commits all that is not committed yet; without a change there is nothing to do.
commit() {
  repo add --all || return
  repo diff --cached --quiet && return
  subject=$(printf '%s\n' "${FLASHPODS_TASK:-}" | grep -m 1 '[^[:space:]]')
  [ ${#subject} -le 72 ] || subject='Work of an agent'
  printf '%s\n\nFlashpods job %s\n' "${subject:-Work of an agent}" "${FLASHPODS_JOB_ID:-}" |
    repo commit --quiet --no-verify --cleanup=whitespace --file=-
}

push() {
  repo rev-parse --verify --quiet HEAD >/dev/null || return 0 # an empty repository, and no change
  repo push --quiet --no-verify -- origin "HEAD:refs/heads/$branch" && return
  sleep 2
  repo push --quiet --no-verify -- origin "HEAD:refs/heads/$branch"
}

# The whole change since the branch was there, committed or not, for git apply.
write_patch() {
  repo add --all &&
    repo diff --cached --binary --no-color --no-ext-diff --no-textconv --src-prefix=a/ --dst-prefix=b/ \
      "$base" >"$artifacts/changes.patch"
}

# report ERROR WHY CODE: adds what happened to the agent's own summary, if it wrote one.
# shellcheck disable=SC2016 # the backticks are Markdown's
report() {
  {
    printf '\n# Flashpods job %s\n\n' "${FLASHPODS_JOB_ID:-}"
    printf -- '- branch: `%s`\n' "$branch"
    [ -z "$1" ] || printf -- '- error: `%s` (%s)\n' "$1" "$2"
    [ -z "$3" ] || printf -- '- exit code of the command: %s\n' "$3"
    [ -z "$outcome" ] || printf -- '- %s\n' "$outcome"
    [ -z "$base" ] || printf '\n```\n%s\n```\n' "$(repo diff --cached --stat=80 --stat-count=50 --no-ext-diff "$base")"
  } >>"$artifacts/summary.md"
}

# finish ERROR WHY CODE EXIT
finish() {
  [ -z "$1" ] || say "$1: $2"
  report "$1" "$2" "$3" && exit "$4"
  say 'agent_report_failed: /artifacts/summary.md can not be written'
  [ "$4" -eq 0 ] && exit 207
  exit "$4"
}

main() {
  trap 'stop 143' TERM
  trap 'stop 130' INT
  trap 'stop 129' HUP
  prepare_git
  get_tokens
  get_repository
  get_branch
  run_command
  patch=0
  write_patch || patch=$?
  if [ -n "$stopped" ]; then
    outcome='not pushed: the job was stopped'
    finish '' '' "$code" "$stopped"
  fi
  if [ "$code" -ne 0 ]; then
    outcome='not pushed: the command failed; changes.patch has what it left'
    finish agent_command_failed "it ended with $code" "$code" "$code"
  fi
  commit || finish git_commit_failed 'what the command left can not be committed' 0 206
  push || finish git_push_failed 'origin refused, or is away; changes.patch has the work' 0 205
  outcome="pushed: $(repo rev-parse --short HEAD 2>/dev/null)"
  [ "$patch" -eq 0 ] || finish agent_report_failed 'changes.patch can not be written' 0 207
  finish '' '' 0 0
}

main
