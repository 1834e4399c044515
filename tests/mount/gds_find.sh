#!/bin/bash
# SPDX-License-Identifier: MIT
# libkvfs: which of any number of names are there, and their bytes in place.
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh" || exit 99
on_two_rungs "$@"
kvfs_mount
mkdir -p "$KV/n/many" "$KV/n/digests"
blocks -n 4100 -s 100 store "$KV/n/many" >/dev/null
DIGEST=$(printf 'ab%030d' 7)
put_tmp "$KV/n/digests/$DIGEST.bin" 5000 1

_gds() { "$HELPERS/gds" "$@"; }
_names() { printf 'b%06d\n' $(seq "$1" "$2"); } # as helpers/blocks calls them
_ones() { printf "%$1s" '' | tr ' ' 1; }

any_number_of_names_is_asked_for_in_one_call() {
	expect 'none' "$(_gds "$KV/n" exists </dev/null)" '0 0 0 '
	expect 'one' "$(_names 7 7 | _gds "$KV/n/many" exists)" '1 1 0 1'
	# Three requests of the daemon; the last names are not there.
	expect 'many' "$(_names 0 4106 | _gds "$KV/n/many" exists)" \
		"4100 4100 0 $(_ones 4100)0000000"
}

a_gap_ends_the_prefix_in_whichever_request_it_is() {
	local gap
	for gap in 0 1999 2000 2007 4099; do
		mv "$KV/n/many/b$(printf %06d $gap)" "$KV/n/away"
		expect "gap $gap" "$(_names 0 4099 | _gds "$KV/n/many" exists)" \
			"4099 $gap 0 $(_ones $gap)0$(_ones $((4099 - gap)))"
		expect "match $gap" "$(_names 0 4099 | _gds "$KV/n/many" match |
			cut -d' ' -f2)" "$gap"
		mv "$KV/n/away" "$KV/n/many/b$(printf %06d $gap)"
	done
}

long_paths_fill_more_requests() {
	local deep i
	deep=$(printf '%0200d/%0200d' 1 2)
	mkdir -p "$KV/n/$deep"
	put_tmp "$KV/n/$deep/a" 100 1
	for i in {1..100}; do echo "$deep/a"; done >"$T/names"
	echo "$deep/b" >>"$T/names"
	expect 'found' "$(_gds "$KV/n" exists <"$T/names")" \
		"100 100 0 $(_ones 100)0"
	printf "%1000s\n" '' | tr ' ' x >"$T/long"
	refused "$EINVAL" bash -c '"$1" "$2" exists <"$3"' - \
		"$HELPERS/gds" "$KV/n" "$T/long"
}

requests_may_be_full_to_the_last_byte() {
	local i last way=$(printf %0200d 1)
	for i in {1..40}; do printf '%s/%0198d\n' "$way" "$i"; done >"$T/names"
	for last in {130..170}; do # 16,332 bytes of names to 16,372
		printf '%s/%0*d\n' "$way" "$last" 0 | cat "$T/names" - >"$T/full"
		expect "$last" "$(_gds "$KV/n" exists <"$T/full")" \
			"0 0 0 $(printf %041d 0)"
		expect "$last" "$(_gds "$KV/n" get <"$T/full" 2>&1 |
			sed 's,.*: ,,' | sort -u)" \
			'No such file or directory'
	done
}

digests_are_names() {
	local none=${DIGEST/ab/ba}
	expect 'with suffix' "$(printf '%s\n' "$DIGEST" "$none" |
		_gds -d .bin "$KV/n/digests" exists)" '1 1 0 10'
	expect 'without' "$(echo "$DIGEST" | _gds -d '' "$KV/n/digests" exists)" \
		'0 0 0 0'
	{ for i in {1..3000}; do echo "$none"; done; echo "$DIGEST"; } >"$T/names"
	expect 'the last of 3001' "$(_gds -d .bin "$KV/n/digests" exists \
		<"$T/names" | tail -c 3)" '01'
	refused "$EINVAL" bash -c 'echo abcd | "$1" -d .bin "$2" exists' - \
		"$HELPERS/gds" "$KV/n"
}

a_holder_of_all_is_found_over_requests() {
	expect 'match' "$(_names 0 4106 | _gds "$KV/n/many" match |
		sed -E 's/ [^ ]+:4100/ :4100/')" '4100 4100 0 :4100:self'
	expect 'nobody' "$(_names 4100 4106 | _gds "$KV/n/many" match)" '0 0 0'
	expect 'of nothing' "$(_gds "$KV/n/many" match </dev/null)" '0 0 0'
}

blocks_are_got_in_place() {
	local i size
	mkdir "$KV/n/get"
	for i in 0 1 2 3; do
		size=$((i * i * 1000000 + 1))
		put_tmp "$KV/n/get/$i" $size "$i"
	done
	: >"$KV/n/get/empty"
	for i in '' -m; do # mapped, and where that cannot be, copied
		# shellcheck disable=SC2086
		printf '%s\n' 0 none 3 1 empty 2 0 |
			_gds $i "$KV/n/get" get >"$T/got" 2>"$T/err"
		(cd "$KV/n/get" && cat 0 3 1 empty 2 0) | cmp - "$T/got"
		expect 'errors' "$(cat "$T/err")" \
			'none: No such file or directory'
	done
}

half_of_the_pool_is_got_and_not_a_block_more() {
	local i
	mkdir "$KV/n/half"
	for ((i = 0; i < 33; i++)); do # of 64 MiB
		put_tmp "$KV/n/half/$i" 2097152 $i
	done
	seq 0 31 | _gds "$KV/n/half" get >"$T/got" 2>"$T/err"
	(cd "$KV/n/half" && cat $(seq 0 31)) | cmp - "$T/got"
	expect 'errors' "$(cat "$T/err")" ''
	seq 0 32 | _gds "$KV/n/half" get >"$T/got" 2>"$T/err"
	(cd "$KV/n/half" && cat $(seq 0 31)) | cmp - "$T/got"
	expect 'one more' "$(cat "$T/err")" '32: Disk quota exceeded'
	rm -r "$KV/n/half"
}

flags_of_another_call_are_refused() {
	refused "$EINVAL" bash -c 'echo b000000 | "$1" -l "$2" get' - \
		"$HELPERS/gds" "$KV/n/many"
	refused "$EINVAL" bash -c 'echo b000000 | "$1" -f "$2" exists' - \
		"$HELPERS/gds" "$KV/n/many"
}

old_blocks_are_given_back_whatever_comes_of_the_next() {
	local mapped=0 # which is held open there
	[ "$KVFS_RUNG" != direct ] || mapped=1200
	expect 'lent' "$(_names 0 1199 |
		STATS=$CTL/stats _gds "$KV/n/many" exchange)" \
		"get 1200 $((mapped + 1200))
odd -22 $((mapped + 1190))
bad -22 $((mapped + 1180))
none 0 $((mapped + 1170))
flags -22 $((mapped + 1160))
three 3 $((mapped + 3))
all 1200 $((mapped + 1200))
put 0 $mapped"
}

many_blocks_are_got_in_more_requests() {
	_names 0 999 | _gds "$KV/n/many" get >"$T/got" 2>"$T/err"
	(cd "$KV/n/many" && cat $(_names 0 999)) | cmp - "$T/got"
	expect 'errors' "$(cat "$T/err")" ''
	wait_for '[ "$(stat_of kvfs_lent_frames)" = 0 ]'
}

errors_say_what_is_wrong() {
	refused 'not on a kvfs mount' _gds "$T" exists
	refused 'No such file' _gds "$KV/none" exists
	refused 'Not a directory' _gds "$KV/n/many/b000000" exists
	refused 'not a directory of blocks' bash -c \
		'echo a | "$1" "$2" exists' - "$HELPERS/gds" "$CKPT"
}

run_tests
