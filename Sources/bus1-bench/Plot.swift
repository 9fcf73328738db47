/// Plots through gnuplot.
enum Plot {
    static func write(_ results: [Result], into directory: String) throws {}
}
