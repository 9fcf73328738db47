#if DEBUG
    @testable import Bus1TestSupport

    switch CommandLine.arguments.dropFirst().first {
    case nil: Actor().run()
    case "exhaust": Exhaustion.run(Array(CommandLine.arguments.dropFirst(2)))
    case "sandboxed":
        RemoteControl.say("ok ")
        Actor().run()
    case let role?: Child.run(role)
    }
#endif
