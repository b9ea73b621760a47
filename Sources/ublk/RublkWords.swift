/// rublk's way to say `add`: the type is a word, not an option, and some short options mean
/// something else than in kublk and ublksrv. Other command lines stay as they are.
func withoutRublkWords(_ words: [String]) -> [String] {
    guard words.count >= 2, words[0] == "add", !words[1].hasPrefix("-") else { return words }
    var translated = ["add", "-t", words[1]]
    for word in words.dropFirst(2) {
        switch word {
        case "-r", "--user-recovery": translated += ["-r", "1"]
        case "-b": translated.append("--max_io_buf_bytes")
        case "-z", "--zero-copy": translated += ["-z", "--auto_zc"]
        case "-o", "--read-only": translated.append("--read_only")
        default: translated.append(word)
        }
    }
    return translated
}

/// ArgumentParser would take the value of "-n -1" for an option.
func withJoinedMinusOne(_ words: [String]) -> [String] {
    words.reduce(into: []) { list, word in
        if word == "-1", let last = list.last, last == "-n" || last == "--number" {
            list[list.count - 1] = "--number=-1"
        } else {
            list.append(word)
        }
    }
}
