package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * An independent Kafka client for tests, driven over standard input and output.
 *
 * <p>Each line in is {"id", "verb", "args"}, each line out {"id", "ok"} or {"id", "error"}. Requests run
 * concurrently, so answers may come out of order. The end of standard input ends the process.
 */
public final class Main {
    static final ObjectMapper JSON = new ObjectMapper();

    private Main() {}

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err); // nothing but answers may reach the pipe
        Verbs verbs = new Verbs(args[0]);
        ExecutorService pool = Executors.newCachedThreadPool();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 16);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String request = line;
            pool.execute(() -> answer(verbs, request, out));
        }
        Runtime.getRuntime().halt(0); // open transactions stay open: a test may want just that
    }

    private static void answer(Verbs verbs, String request, PrintStream out) {
        ObjectNode reply = JSON.createObjectNode();
        try {
            JsonNode node = JSON.readTree(request);
            reply.set("id", node.get("id"));
            reply.set("ok", verbs.call(node.get("verb").asText(), node.get("args")));
        } catch (Throwable failure) {
            reply.put("error", message(failure));
        }
        synchronized (out) {
            out.println(reply);
            out.flush();
        }
    }

    private static String message(Throwable failure) {
        Throwable cause = failure;
        while ((cause instanceof ExecutionException || cause instanceof CompletionException)
                && cause.getCause() != null) {
            cause = cause.getCause();
        }
        String where = cause.getStackTrace().length > 0 ? " at " + cause.getStackTrace()[0] : "";
        StringBuilder text = new StringBuilder(cause.getClass().getSimpleName() + ": " + cause.getMessage() + where);
        for (Throwable deeper = cause.getCause(); deeper != null; deeper = deeper.getCause()) {
            text.append("; because of ").append(deeper.getClass().getSimpleName()).append(": ").append(deeper.getMessage());
        }
        return text.toString();
    }
}
