import Bus1Shm
import Testing

@Test func aBusRemembersItsPath() { #expect(Bus(path: "/x").path == "/x") }
