/**
 * Gives back what the start has left in the heap. Loading the relay's code makes V8 enlarge its space for new objects to some 32 MB, of
 * which a relay uses little afterwards and which V8 shrinks only in a collection that is to save memory; that space may grow
 * again when it is needed. The inspector's `HeapProfiler.collectGarbage` is such a collection (V8's LowMemoryNotification), and the only
 * way there without a flag at the start of Node. It opens no port.
 */

/** @returns resolves when the heap is collected, after some 60 ms in which this thread does nothing else; at once where Node has no inspector */
export async function trimHeap(): Promise<void> {
  if (!(process.features as { readonly inspector?: boolean }).inspector) return;
  const { Session } = await import('node:inspector');
  const session = new Session();
  session.connect();
  await new Promise<void>((resolve) => {
    session.post('HeapProfiler.collectGarbage', () => resolve());
  });
  // Not from within the answer: whoever disconnects there waits for ever.
  await new Promise((resolve) => setImmediate(resolve));
  session.disconnect();
}
