#if DEBUG
    if CommandLine.arguments.count > 1 {
        Child.run(CommandLine.arguments[1])
    } else {
        Actor().run()
    }
#endif
