import CasadmCore
import Glibc

@main
struct Program {
    static func main() async {
        signal(SIGPIPE, SIG_IGN)
        exit(await Casadm.run(Array(CommandLine.arguments.dropFirst()), .ofProcess()))
    }
}
