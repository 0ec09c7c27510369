package workbench;

import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.common.KafkaFuture;

/** Bounded waiting. */
final class Waits {
    private static final long LIMIT_MS = 240_000;

    private Waits() {}

    static void until(String what, Callable<Boolean> reached) throws Exception {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!reached.call()) {
            if (System.currentTimeMillis() > deadline) {
                throw new IllegalStateException("waited " + LIMIT_MS + " ms in vain until " + what);
            }
            Thread.sleep(10);
        }
    }

    /** The future's value; its failure comes as itself, not wrapped. */
    static <T> T get(KafkaFuture<T> future) throws Exception {
        try {
            return future.get();
        } catch (ExecutionException wrapped) {
            if (wrapped.getCause() instanceof Exception cause) {
                throw cause;
            }
            throw wrapped;
        }
    }
}
