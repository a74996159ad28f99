# shellcheck shell=bash
# The table at the end: what was tried, what was expected, what happened.

rows=() differing=0

# row GROUP TRIED EXPECTED HAPPENED HOLDS, where HOLDS is 0 when it went as expected
row() {
    local verdict=ok
    (($5 == 0)) || { verdict=DIFFERS; differing=$((differing + 1)); }
    rows+=("$1"$'\x1f'"$2"$'\x1f'"$3"$'\x1f'"$4"$'\x1f'"$verdict")
    printf '%s: %s: %s: %s\n' "$verdict" "$1" "$2" "$4" >>"$log"
}

print_table() {
    local total group last='' tried expected happened verdict row columns
    total=$(width)
    ((total >= 90)) || total=90
    # What is left after the verdict and the gaps, in parts of 38, 26 and 36 hundredths.
    total=$((total - 15))
    columns=($((total * 38 / 100)) $((total * 26 / 100)) $((total * 36 / 100)))
    echo
    cells "${columns[@]}" 'what was tried' 'expected' 'what happened' ''
    for row in "${rows[@]}"; do
        IFS=$'\x1f' read -r group tried expected happened verdict <<<"$row"
        [[ $group == "$last" ]] || printf '%s\n' "$(bold "$group")"
        last=$group
        cells "${columns[@]}" "$tried" "$expected" "$happened" "$verdict"
    done
    printf '\n%d of %d as expected.\n' $((${#rows[@]} - differing)) ${#rows[@]}
}

# One row, its cells wrapped: two spaces, three columns of the given widths, the verdict.
cells() {
    local one two three i line lines verdict=$7
    mapfile -t one < <(wrap "$1" "$4")
    mapfile -t two < <(wrap "$2" "$5")
    mapfile -t three < <(wrap "$3" "$6")
    lines=$(printf '%d\n' ${#one[@]} ${#two[@]} ${#three[@]} | sort -n | tail -n 1)
    for ((i = 0; i < lines; i++)); do
        printf -v line '  %-*s  %-*s  %-*s' "$1" "${one[i]:-}" "$2" "${two[i]:-}" "$3" "${three[i]:-}"
        # The verdict stands in the first line; the others have no spaces at the end.
        if ((i)) || [[ ! $verdict ]]; then
            echo "${line%"${line##*[! ]}"}"
        else
            echo "$line$(coloured "$verdict")"
        fi
    done
}

wrap() { printf '%s\n' "$2" | printable | fold -s -w "$1" | sed 's/ $//'; }

coloured() { if [[ $1 == ok ]]; then colour 32 "  $1"; else colour '1;31' "  $1"; fi; }
