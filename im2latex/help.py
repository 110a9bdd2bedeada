"""Help texts of `im2latex predict` and `serve`, shared by the commands with and without the pipeline."""

IM2LATEX = "Pictures of formulas to LaTeX."
PREDICT = "Print the LaTeX of images, one line each; the file name comes first if there are several."
PREDICT_STATUS = "Exit status: 0 all images were read, 1 some were not, or with too little confidence."
IMAGE = "Files, folders, or - for standard input."
MODEL = (
    "Folder of a model, ONNX file or file of weights, or `reader`, which comes with im2latex; if not given, the model "
    "pushed last, else the reader."
)
CLEAN = r"Print LaTeX as a person would type it: x_i^2, \sin."
ALTERNATIVES = "Number of alternatives for each image, by beam search."
MIN_CONFIDENCE = "Do not print readings that are right with a lower probability; 0 to 1."
JSON = "Print one JSON object per line, with probabilities."

SERVE = (
    "Serve a model over HTTP, with a page for the browser. Without --model, the model pushed last serves, else the "
    "reader, and newly pushed versions are loaded."
)
SERVE_SIGNALS = "Ctrl-C and SIGTERM stop the service after the requests in progress are answered."
HOST = "Address to listen on; 0.0.0.0 for all."
PORT = "Port to listen on; 0 for a free one."
SERVED_MODEL = MODEL.partition(";")[0] + "."
ALLOW_HOST = "Additional host name to accept in requests; '*' for any. Repeatable."
LOG_FORMAT = "Log on stderr: lines of text, or JSON objects."
COLLECT = "Let people save corrections on the page, into this folder, for the next training."
